"""The check of claims by people: each claim about an image is accepted, rejected or left open (AnomReason, section 3).

``sources`` finds the candidates in the records of detectors and in data sets, ``judgements`` keeps the answers on the
disk, ``verification`` brings both together, and ``summary`` and ``export`` say and write what was accepted.
"""
