namespace Bunraku.Cli.CommandLine;

/// <summary>What a shell reads so that it completes command lines of ours: each asks the program, whose definitions of the commands are the only
/// ones.</summary>
internal static class CompletionScript
{
    /// <summary>Shells that there is one for.</summary>
    public static IReadOnlyList<string> Shells { get; } = ["bash", "zsh", "fish"];

    /// <exception cref="UsageException">There is none for that shell.</exception>
    public static string For(string shell) => shell switch
    {
        "bash" => """
            _bunraku() { mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" "[suggest:$COMP_POINT]" "$COMP_LINE" 2>/dev/null); }
            complete -o default -F _bunraku bunraku ./bunraku

            """,
        "zsh" => """
            _bunraku() {
                local -a found
                found=("${(@f)$("${words[1]}" "[suggest:$CURSOR]" "$BUFFER" 2>/dev/null)}")
                [[ -n "${found[1]}" ]] && compadd -Q -- "${found[@]}" || _files
            }
            compdef _bunraku bunraku ./bunraku

            """,
        "fish" => """
            complete -c bunraku -a '(bunraku "[suggest]" (commandline -cp) 2>/dev/null)'

            """,
        _ => throw new UsageException(Nearest.Message("shell", shell, [.. Shells])),
    };
}
