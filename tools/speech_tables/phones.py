"""Names and codes of the phones of English, shared by the tables and src/speech/english_phones.h."""

VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
NAMES = [v + s for v in VOWELS for s in "012"] + CONSONANTS  # 45 + 24
CODE = {name: i for i, name in enumerate(NAMES)}
