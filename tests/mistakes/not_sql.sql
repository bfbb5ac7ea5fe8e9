sources:
  words:
    connector: file
