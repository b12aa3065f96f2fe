"""Who runs jobs: the embedded engine, its launchers, and the shim that each job runs under."""
