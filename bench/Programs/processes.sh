# Many small processes, and what a shell does by itself.
i=0
total=0
while [ $i -lt 200 ]; do
    x=$(expr $i \* 7 + 3)
    total=$((total + x))
    case $x in *3) total=$((total + 1));; *7) echo "$x" | tr 0-9 a-j >>letters;; esac
    i=$((i + 1))
done
i=0
while [ $i -lt 40000 ]; do i=$((i + 1)); total=$((total + i % 13)); done
echo $total
md5sum <letters
