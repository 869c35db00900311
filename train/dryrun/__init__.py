"""Compile a recipe's update and evaluation for Ascend where there is neither a card nor CANN; see README.md here."""
