using System.Reflection;
using Bunraku.Engine.Check;
using Bunraku.Engines;

namespace Bunraku.Fixtures;

/// <summary>The comparison of two processors' states looks at all of it: a field that is added to the state is compared, or a test fails.</summary>
public sealed class StateComparerTests
{
    /// <summary>The engine that compares holds no local APICs.</summary>
    private static readonly string[] s_notCompared = [nameof(CpuState.Apic)];

    public static TheoryData<string> Fields =>
        [.. typeof(CpuState).GetFields(BindingFlags.Public | BindingFlags.Instance).Select(f => f.Name).Except(s_notCompared)];

    private static CpuState NewState() => new() { Pdptes = new ulong[4], MmioValues = [1, 2], Msrs = { [0x10] = 1 } };

    [Theory, MemberData(nameof(Fields))]
    public void A_difference_in_each_field_is_found_and_named(string name)
    {
        FieldInfo field = typeof(CpuState).GetField(name)!;
        CpuState a = NewState(), b = NewState();
        Assert.True(StateComparer.AreEqual(a, b));
        Assert.Empty(StateComparer.Differences(a, b));
        field.SetValue(b, Changed(field.GetValue(b), field.FieldType));
        Assert.False(StateComparer.AreEqual(a, b));
        Assert.Single(StateComparer.Differences(a, b));
    }

    private static object Changed(object? value, Type type) => value switch
    {
        ulong v => v + 1,
        ushort v => (ushort)(v + 1),
        bool v => !v,
        ulong[] v => (ulong[])[.. v[..^1], v[^1] + 1],
        byte[] v => (byte[])[.. v[..^1], (byte)(v[^1] + 1)],
        SegmentState v => v with { Limit = v.Limit + 1 },
        CpuActivity => CpuActivity.Halted,
        Dictionary<uint, ulong> => new Dictionary<uint, ulong> { [0x10] = 2 },
        List<ulong> => (List<ulong>)[3, 2], // the last value is still to come where the state is compared
        List<PostedWrite> => (List<PostedWrite>)[new PostedWrite(0xD000_0000, 4, 1)],
        null when type == typeof(PendingEvent?) => new PendingEvent(EventKind.Nmi, 2),
        null when type == typeof(HalfDoneInstruction) => new HalfDoneInstruction(ExitReason.Io, 0x1000, false, 1, 0x60, 0, false, 0, 0, 0, 0, 0, 0),
        null when type == typeof(SvmState) => new SvmState { GlobalInterruptFlag = false },
        null when type == typeof(byte[]) => new byte[128],
        null when type == typeof(VmxState) => new VmxState { InOperation = true },
        _ => throw new NotSupportedException($"this test must learn to change a {type.Name}"),
    };
}
