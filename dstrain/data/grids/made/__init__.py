"""Puzzles made by rule: seven kinds of known difficulty, as many tasks of each as there are numbers.

    flip      rows or columns in reverse                               difficulty 1
    rotate    by 90, 180 or 270 degrees                                2
    recolour  every colour becomes another                             2
    gravity   coloured cells fall to one of four sides                 3
    fill      what coloured cells enclose gets one colour              2
    copy      as it is, twice beside, twice below, the object alone    1
    count     the commonest colour as one cell; its cells as a bar     3

Turned, mirrored or with other colours each is a puzzle of the same kind. Any one demonstration may be left out.
"""
