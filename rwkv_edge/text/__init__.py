"""From logits to text: sampling, stop strings, the loop that generates, scores."""
