"""What people see: terminal tables and progress. Knows layout; refuses to know how figures are computed."""
