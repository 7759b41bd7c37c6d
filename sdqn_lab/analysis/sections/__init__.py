"""The report, a module a question: each turns a comparison into tables and figures."""
