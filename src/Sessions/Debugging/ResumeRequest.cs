namespace Bunraku.Sessions.Debugging;

/// <summary>Reads which vCPUs are to go on. GDB manual, "Packets": vCont.</summary>
internal static class ResumeRequest
{
    /// <summary>What a debugger can ask for.</summary>
    public const string Supported = "vCont;c;C;s;S;t";

    /// <summary>The orders of vCont.</summary>
    /// <param name="text">Behind "vCont", with the first semicolon.</param>
    /// <returns>Null: it makes no sense, or names a vCPU that there is not.</returns>
    public static CpuOrder[]? Parse(ReadOnlySpan<byte> text, int cpus)
    {
        var orders = new CpuOrder?[cpus];
        if (text.IsEmpty) return null;
        while (!text.IsEmpty)
        {
            if (!Hex.TryTake(ref text, ';') || text.IsEmpty) return null;
            byte action = text[0];
            text = text[1..];
            // Signals mean nothing to a machine.
            if (action is (byte)'C' or (byte)'S' && !Hex.TryTakeNumber(ref text, out _)) return null;
            CpuOrder? order = action switch
            {
                (byte)'c' or (byte)'C' => CpuOrder.Run,
                (byte)'s' or (byte)'S' => CpuOrder.Step,
                (byte)'t' => CpuOrder.Hold,
                _ => null,
            };
            int? cpu = null; // all
            if (order is null || (Hex.TryTake(ref text, ':') && !TryTakeThread(ref text, cpus, out cpu))) return null;
            for (int n = 0; n < cpus; n++)
            {
                if (cpu is null || cpu == n) orders[n] ??= order; // the first one that fits counts
            }
        }
        return [.. orders.Select(o => o ?? CpuOrder.Hold)];
    }

    /// <summary>Takes the number of a thread, which is one more than the vCPU's.</summary>
    /// <param name="cpu">Null: all of them, or any.</param>
    /// <returns>False: there is no such thread.</returns>
    public static bool TryTakeThread(ref ReadOnlySpan<byte> text, int cpus, out int? cpu)
    {
        cpu = null;
        if (text.StartsWith("-1"u8))
        {
            text = text[2..];
            return true;
        }
        if (!Hex.TryTakeNumber(ref text, out ulong thread) || thread > (ulong)cpus) return false;
        if (thread != 0) cpu = (int)thread - 1;
        return true;
    }
}
