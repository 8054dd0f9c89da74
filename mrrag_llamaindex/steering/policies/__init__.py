"""What IFA is compared with, and the table of all policies."""
