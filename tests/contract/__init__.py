"""Tests of what the product does, seen from outside: requests, pages, exports, proposals, the database."""
