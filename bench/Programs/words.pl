# Hashes, strings, regular expressions, sorting.
use strict;
use warnings;

my (%count, %pairs);
my $previous = '';
open my $text, '<', $ARGV[0] or die "cannot read $ARGV[0]: $!";
while (my $line = <$text>) {
    last if $. > 16000;
    while ($line =~ /([a-z]+)/g) {
        $count{$1}++;
        $pairs{"$previous $1"}++ if $previous ne '';
        $previous = $1;
    }
    $line =~ s/\b(\w)(\w*)ing\b/$2$1ing/g;
    $count{'vowels'} += ($line =~ tr/aeiou//);
}
my @best = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "$_ $count{$_}\n" for @best[0 .. 39];
my @two = sort { $pairs{$b} <=> $pairs{$a} || $a cmp $b } keys %pairs;
print "$_ $pairs{$_}\n" for @two[0 .. 39];
print scalar(@best), ' ', scalar(@two), "\n";
