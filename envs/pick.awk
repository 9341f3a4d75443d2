# Prints the entries of a lock, with their hashes, of the packages that a list names: awk -f pick.awk LIST LOCK
NR == FNR { wanted[$1]; next }
/^[^ ]/ { split($1, pin, "=="); keep = pin[1] in wanted }
keep
