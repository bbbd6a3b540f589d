"""Image-text models of transformers behind one adapter: text-first pass, three budgets, choice scoring, pruning."""
