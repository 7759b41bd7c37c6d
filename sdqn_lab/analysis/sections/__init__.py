"""The sections of a report: each turns a comparison into tables and figures."""
