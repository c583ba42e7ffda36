"""What a run leaves to look at: rows of metrics and events, busy time, the tables people read.

Knows nothing of what the rows mean. Written by the head only; read by views, reports and people.
"""
