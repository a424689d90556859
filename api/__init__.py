"""Floor 3, HTTP: authentication, errors, schemas, paging, the specification, and the blueprints beside alert_api."""
