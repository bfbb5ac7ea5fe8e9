SELECT word FROM words;
