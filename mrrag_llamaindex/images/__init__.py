"""Images, as files hold them."""
