"""What operators ask the server: is it alive, is it ready, how is it, what does this query cost."""
