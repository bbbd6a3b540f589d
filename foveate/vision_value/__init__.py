"""Whether, and how closely, to look: NO, COARSE or FULL per question.

A head reads the text-first pass and predicts what a look would gain; the choice is argmax(gain - lambda * cost).
`baselines` holds the rules it must beat. Nothing here runs a model: everything works on arrays of passes already made.
"""
