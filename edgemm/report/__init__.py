"""The page and the pictures made from measurements."""
