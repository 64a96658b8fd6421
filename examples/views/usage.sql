SELECT
  u.subscriber,
  COUNT_IF(u.kind = 'call' AND u.at >= :as_of - INTERVAL '7' DAY) AS calls_7d,
  COUNT_IF(u.kind = 'call' AND u.at >= :as_of - INTERVAL '30' DAY) AS calls_30d,
  COUNT_IF(u.kind = 'message' AND u.at >= :as_of - INTERVAL '30' DAY) AS messages_30d,
  RATIO(COALESCE(SUM(u.seconds) FILTER (WHERE u.kind = 'call' AND u.at >= :as_of - INTERVAL '30' DAY), 0), 60) AS minutes_30d,
  MAX(u.seconds) FILTER (WHERE u.kind = 'call' AND u.at >= :as_of - INTERVAL '30' DAY) AS longest_call_30d,
  SUM(u.megabytes) FILTER (WHERE u.kind = 'data' AND u.at >= :as_of - INTERVAL '30' DAY) AS megabytes_30d,
  RATIO(
    COUNT_IF((HOUR(u.at) >= 22 OR HOUR(u.at) < 6) AND u.at >= :as_of - INTERVAL '30' DAY),
    COUNT_IF(u.at >= :as_of - INTERVAL '30' DAY)
  ) AS night_share_30d,
  COUNT_IF(c.abroad AND u.at >= :as_of - INTERVAL '30' DAY) AS abroad_30d,
  COUNT_DISTINCT(c.region) FILTER (WHERE u.at >= :as_of - INTERVAL '30' DAY) AS regions_30d,
  RATIO(
    COUNT_IF(u.at >= :as_of - INTERVAL '7' DAY),
    COUNT_IF(u.at >= :as_of - INTERVAL '14' DAY AND u.at < :as_of - INTERVAL '7' DAY)
  ) AS trend,
  RATIO(SECONDS_BETWEEN(MAX(u.at), :as_of), 3600) AS hours_since_last,
  LAST(c.region) AS last_region
FROM usage u
LEFT JOIN cells c ON c.cell = u.cell
GROUP BY u.subscriber
