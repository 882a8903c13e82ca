"""What the daemon remembers: the ledger of deliveries, runs, jobs and reports, and the log files of jobs."""
