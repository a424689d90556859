-- name: set_clock$
-- Carries a frozen clock over to app_now() for this session.
SELECT set_config('app.now', :now, false);
