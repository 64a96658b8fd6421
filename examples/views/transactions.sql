SELECT
  tx.account,
  COUNT_IF(tx.at >= :as_of - INTERVAL '1' HOUR) AS n_1h,
  COUNT_IF(tx.at >= :as_of - INTERVAL '30' DAY) AS n_30d,
  COALESCE(SUM(tx.amount) FILTER (WHERE tx.at >= :as_of - INTERVAL '30' DAY), 0) AS spent_30d,
  AVG(tx.amount) FILTER (WHERE tx.at >= :as_of - INTERVAL '30' DAY) AS mean_30d,
  MAX(CASE WHEN tx.at >= :as_of - INTERVAL '30' DAY THEN tx.amount END) AS largest_30d,
  RATIO(
    COALESCE(SUM(tx.amount) FILTER (WHERE merchants.category = 'food' AND tx.at >= :as_of - INTERVAL '30' DAY), 0),
    SUM(tx.amount) FILTER (WHERE tx.at >= :as_of - INTERVAL '30' DAY)
  ) AS food_share_30d,
  COUNT(DISTINCT tx.merchant) FILTER (WHERE tx.at >= :as_of - INTERVAL '30' DAY) AS merchants_30d,
  COUNT_IF(DAY_OF_WEEK(tx.at) >= 6 AND tx.at >= :as_of - INTERVAL '30' DAY) AS weekend_30d,
  COUNT_IF(HOUR(tx.at) < 6 AND tx.at >= :as_of - INTERVAL '30' DAY) AS night_30d,
  DAYS_BETWEEN(MAX(tx.at), :as_of) AS days_since_last,
  SECONDS_BETWEEN(MAX(tx.at), :as_of) AS seconds_since_last,
  LAST(tx.channel) AS last_channel,
  LAST(tx.amount) AS last_amount,
  MIN(DAYS_BETWEEN(merchants.opened, tx.at)) AS newest_merchant_days
FROM tx
LEFT JOIN merchants ON merchants.merchant = tx.merchant
WHERE tx.amount > 0
GROUP BY tx.account
