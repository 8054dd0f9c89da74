"""What a pair passes on its way into a store: views, admission, embedding; and the check."""
