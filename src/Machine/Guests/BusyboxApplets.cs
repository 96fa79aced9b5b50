using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// Gives way to programs of ours in the guest's busybox: its shell runs an applet of its own before it looks for a program of that name, so a script that
/// says "modprobe" would never come to ours.
/// </summary>
/// <remarks>busybox, libbb/appletlib.c: the names of all applets lie in order, each with a NUL behind it, and are searched in order.</remarks>
internal static class BusyboxApplets
{
    /// <summary>Gives applets another name in a copy of the program. One that is not where it is to be expected stays as it is.</summary>
    public static byte[] Hide(ReadOnlySpan<byte> busybox, params ReadOnlySpan<string> applets)
    {
        byte[] program = busybox.ToArray();
        foreach (string applet in applets) Hide(program, applet);
        return program;
    }

    private static void Hide(byte[] program, string applet)
    {
        // The other name is of the same length and has the same place in the order: the last letter becomes a character before all letters.
        string hidden = applet[..^1] + '-';
        byte[] name = Encoding.ASCII.GetBytes($"\0{applet}\0");
        int found = -1;
        for (int at = 0; program.AsSpan(at).IndexOf(name) is >= 0 and var distance; at++)
        {
            at += distance;
            int start = program.AsSpan(0, at).LastIndexOf((byte)0) + 1, next = at + name.Length, length = program.AsSpan(next).IndexOf((byte)0);
            // Between two names in order: it is that list. The word can be elsewhere, too.
            if (length <= 0 || string.CompareOrdinal(Text(start, at), hidden) >= 0 || string.CompareOrdinal(applet, Text(next, next + length)) >= 0) continue;
            if (found >= 0) return;
            found = at;
        }
        if (found >= 0) program[found + applet.Length] = (byte)hidden[^1];

        string Text(int from, int to) => Encoding.Latin1.GetString(program.AsSpan(from, to - from));
    }
}
