"""What people look at: tables and figures made from the results tree."""
