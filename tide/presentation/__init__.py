"""What figures and pages have in common."""
