-- Hot items: the auctions with the most bids in ten seconds, told every two seconds.

USE PIPELINE '../nexmark/q5.sql';

INSERT INTO bid (auction, date_time) VALUES
  (1, TIMESTAMP '2026-01-01 00:00:00'), (1, TIMESTAMP '2026-01-01 00:00:01'),
  (2, TIMESTAMP '2026-01-01 00:00:03'), (3, TIMESTAMP '2026-01-01 00:00:11');
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:00:10';

-- the five windows that end from 2 to 10 hold both bids of 1, which is the most in each
ASSERT CHANGELOG OF results IS VALUES (1, 2), (1, 2), (1, 2), (1, 2), (1, 2);
ASSERT VIEW counts (auction, num) IS VALUES
  (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (2, 1), (2, 1), (2, 1), (2, 1);

-- the window from 2 to 12 holds one bid of each of the others, the four after it one
END;
ASSERT CHANGELOG OF results IS VALUES (2, 1), (3, 1), (3, 1), (3, 1), (3, 1), (3, 1);
