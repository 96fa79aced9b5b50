using System.Globalization;

namespace Bunraku.Machine;

/// <summary>A file that the guest is to have, beside its own.</summary>
/// <param name="Path">Where, from / on.</param>
/// <param name="Mode">Permission bits.</param>
public sealed record LinuxGuestFile(string Path, uint Mode)
{
    /// <summary>Its bytes.</summary>
    public ReadOnlyMemory<byte> Content { get; init; }

    /// <summary>It is a folder.</summary>
    public bool IsFolder { get; init; }

    /// <summary>It is a symbolic link that leads there; null: it is none.</summary>
    public string? Target { get; init; }
}

/// <summary>How a command or a shell of a guest of ours starts: where, with which environment, as whom. Words for the POSIX shell.</summary>
internal static class CommandStart
{
    /// <summary>The shell becomes what the words say.</summary>
    /// <param name="options">What it is to have.</param>
    /// <param name="words">Quoted for the shell.</param>
    /// <param name="hasAccounts">The guest is a whole system: its accounts are its own, and it has util-linux.</param>
    /// <param name="check">What it does before, with the environment and as the user of the command.</param>
    public static string Exec(LinuxGuestOptions options, string words, bool hasAccounts, string check = "")
    {
        string exports = Exports(options);
        if (options.User is not { } user || user is "root" or "0" or "0:0") return $"{exports}{check}exec {words}\n";
        (string? id, string? group) = Numbers(user);
        // The exports come behind the change, which sets some by itself.
        string inner = InitramfsBuilder.Quote(exports + check + "exec \"$@\"");
        if (!hasAccounts)
        {
            // An account for the number: this guest has nothing that lasts.
            string name = id is null ? user : "u" + id;
            string known = id is null ? "" : $"grep -q '^{name}:' /etc/passwd || echo '{name}:x:{id}:{group ?? id}::/tmp:/bin/sh' >>/etc/passwd\n";
            return $"{known}grep -q {InitramfsBuilder.Quote($"^{name}:")} /etc/passwd || "
                + $"{{ printf 'bunraku: the guest has no user %s\\n' {InitramfsBuilder.Quote(name)} >&2; exit 126; }}\n"
                + $"exec su -s /bin/sh -c {inner} -- {InitramfsBuilder.Quote(name)} sh {words}\n";
        }
        string who = InitramfsBuilder.Quote(id ?? user), groups = id is null ? "--init-groups" : "--clear-groups";
        return $$"""
            account=$(getent passwd {{who}}) || { {{(id is null ? $"printf 'bunraku: the guest has no user %s\\n' {who} >&2; exit 126" : ":")}}; }
            group=$(id -g {{who}} 2>/dev/null)
            home=${account%:*}
            export HOME="${home##*:}" USER="${account%%:*}" LOGNAME="${account%%:*}"
            [ "$HOME" ] || export HOME=/
            exec setpriv --reuid={{who}} --regid={{(group is null ? $"\"${{group:-{id ?? "0"}}}\"" : group)}} {{groups}} sh -c {{inner}} sh {{words}}

            """;
    }

    /// <summary>Goes to where it starts.</summary>
    /// <param name="otherwise">What happens where that is not there.</param>
    public static string Enter(LinuxGuestOptions options, string otherwise) => options.WorkingFolder is not { } folder ? "" : $$"""
        cd {{InitramfsBuilder.Quote(folder)}} || {{otherwise}}

        """;

    /// <summary>Sets the variables.</summary>
    public static string Exports(LinuxGuestOptions options) =>
        string.Concat(options.Environment.Select(v => $"export {v.Key}={InitramfsBuilder.Quote(v.Value)}\n"));

    /// <summary>UID and GID of UID[:GID]; nothing of a name.</summary>
    private static (string? Id, string? Group) Numbers(string user)
    {
        string[] parts = user.Split(':');
        return uint.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out _) ? (parts[0], parts.Length > 1 ? parts[1] : null) : (null, null);
    }

    /// <summary>Puts the files into an archive.</summary>
    /// <param name="folder">Below which they stand, without a leading slash.</param>
    public static void AddFiles(CpioArchive archive, string folder, IReadOnlyList<LinuxGuestFile> files)
    {
        var made = new HashSet<string>(StringComparer.Ordinal);
        foreach (LinuxGuestFile file in files)
        {
            string path = folder + file.Path;
            for (int slash = path.IndexOf('/', folder.Length + 1); slash >= 0; slash = path.IndexOf('/', slash + 1))
            {
                if (made.Add(path[..slash])) archive.AddDirectory(path[..slash]);
            }
            if (file.IsFolder)
            {
                if (made.Add(path)) archive.AddDirectory(path, file.Mode);
            }
            else if (file.Target is { } target)
            {
                archive.AddSymbolicLink(path, target);
            }
            else
            {
                archive.AddFile(path, file.Content.Span, file.Mode);
            }
        }
    }
}
