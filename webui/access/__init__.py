"""Who may do what on a page that others than its owner can reach: sessions, and the door before every route."""
