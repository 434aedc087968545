"""The SQLite file: one connection on one thread, and all the SQL there is, a module for each concept."""
