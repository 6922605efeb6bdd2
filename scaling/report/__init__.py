"""What we say: findings of a results folder, figures, one page."""
