# Fields, associative arrays, string functions. POSIX only, since two awks run it.
NR <= 40000 {
    for (i = 1; i <= NF; i++) { n[$i]++; letters += length($i) }
    if (index($0, "ing")) { gsub(/ing/, "ed"); changed++ }
}
END { for (w in n) { distinct++; if (n[w] > most) most = n[w] } print distinct, most, letters, changed }
