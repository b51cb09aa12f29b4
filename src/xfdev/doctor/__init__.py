"""What is wrong with this machine, this checkout and its environment, and the fix.

look/       facts, an area a module: each is asked once, in a thread of its own, and may fail alone
facts       what the areas tell, as plain values
checks/     the judgement: a pure function a check, facts in, finding out
registry    all checks, with what each can say and what ``--fix`` may do
examine     gather, judge
repair      carry out the fixes that are safe
early       the few checks that are made before long work, by themselves
"""
