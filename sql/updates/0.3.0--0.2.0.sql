-- From 0.3.0 to 0.2.0.

-- take comments
