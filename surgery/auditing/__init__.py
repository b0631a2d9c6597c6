"""Measuring what a model still remembers, and what the patch changed besides.

Imports go one way:

    settings, drawing, units, budget, judgement  <-  measures  <-  subjects, identity, store, bench
        <-  stages, attack  <-  findings  <-  report, inputs  <-  audit

`settings` and `judgement` know nothing of pictures or models; a test keeps the order.
"""
