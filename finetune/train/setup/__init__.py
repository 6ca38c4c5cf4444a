"""What happens before the first step: checks, estimates and automatic settings."""
