namespace Bunraku.Machine.Timers;

/// <summary>The clock of the 8254 and of the ACPI timer's divider chain: the PC's 14.318 MHz crystal (315/22 MHz) divided by 12, 105/88 MHz exactly.</summary>
internal static class PitClock
{
    // 105/88 ticks a microsecond = 21/17600 a nanosecond.
    private const long Numerator = 21, Denominator = 17_600;

    /// <summary>Whole ticks in <paramref name="nanoseconds"/> (not negative).</summary>
    public static long Ticks(long nanoseconds) => (long)((Int128)nanoseconds * Numerator / Denominator);

    /// <summary>The first nanosecond at which <paramref name="ticks"/> ticks have passed.</summary>
    public static long Nanoseconds(long ticks) => (long)(((Int128)ticks * Denominator + Numerator - 1) / Numerator);
}
