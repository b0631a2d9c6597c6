"""NeMo: from a corpus of prompts to the neurons that hold its memorized images."""
