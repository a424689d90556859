-- R: the statement that raises an alert.
SELECT * FROM raise_alert(gen_random_uuid(), 'critical', 'Temperature threshold exceeded', '{"temperature": 85.5}',
                          'temperature', '', NULL, true, 'bench', NULL);
