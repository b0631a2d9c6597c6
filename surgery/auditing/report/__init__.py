"""What is written down: `audit.json` and `audit.html`."""
