"""What every question of the load test shares: processes, their CPU time, and the report."""
