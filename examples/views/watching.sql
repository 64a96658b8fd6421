SELECT
  w.viewer,
  COUNT_IF(t.genre = 'drama' AND w.at >= :as_of - INTERVAL '30' DAY) AS drama_times_30d,
  RATIO(SUM(w.seconds) FILTER (WHERE t.genre = 'drama' AND w.at >= :as_of - INTERVAL '30' DAY), 3600) AS drama_hours_30d,
  COUNT_IF(t.genre = 'comedy' AND w.at >= :as_of - INTERVAL '30' DAY) AS comedy_times_30d,
  RATIO(SUM(w.seconds) FILTER (WHERE t.genre = 'comedy' AND w.at >= :as_of - INTERVAL '30' DAY), 3600) AS comedy_hours_30d,
  COUNT_IF(t.genre = 'sport' AND w.at >= :as_of - INTERVAL '30' DAY) AS sport_times_30d,
  RATIO(SUM(w.seconds) FILTER (WHERE t.genre = 'sport' AND w.at >= :as_of - INTERVAL '30' DAY), 3600) AS sport_hours_30d,
  COUNT(DISTINCT t.genre) FILTER (WHERE w.at >= :as_of - INTERVAL '30' DAY) AS genres_30d,
  RATIO(
    COUNT_IF(w.seconds >= t.length * 0.9 AND w.at >= :as_of - INTERVAL '30' DAY),
    COUNT_IF(t.length IS NOT NULL AND w.at >= :as_of - INTERVAL '30' DAY)
  ) AS finished_share_30d,
  RATIO(AVG(w.seconds) FILTER (WHERE w.at >= :as_of - INTERVAL '30' DAY), 60) AS mean_minutes_30d,
  MIN(DAYS_BETWEEN(t.released, w.at)) AS newest_title_days,
  COUNT_IF(DAY_OF_WEEK(w.at) IN (6, 7) AND w.at >= :as_of - INTERVAL '30' DAY) AS weekend_times_30d,
  LAST(t.genre) AS last_genre
FROM watching w
LEFT JOIN titles t ON t.title = w.title
WHERE w.seconds > 0
GROUP BY w.viewer
