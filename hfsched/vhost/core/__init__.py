"""The C core of vhost: memory that another process may take away is accessed here."""
