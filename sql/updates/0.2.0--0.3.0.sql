-- From 0.2.0 to 0.3.0.

-- take comments
