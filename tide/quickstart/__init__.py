"""The quickstart: a corpus that every machine has, all methods on it, and a report of what they did."""
