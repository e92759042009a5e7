"""What makes of a run's folder a repository on the Hub."""
