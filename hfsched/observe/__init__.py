"""What happened: counters, told by others.  This room asks nobody."""
