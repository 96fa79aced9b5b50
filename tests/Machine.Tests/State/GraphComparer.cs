using System.Collections;
using System.Reflection;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Serial;
using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Tests.State;

/// <summary>
/// Walks the objects of two machines side by side, from the board and the buses through all fields, and names each field whose values differ: state that no
/// record holds shows up here, whoever has it.
/// </summary>
internal static class GraphComparer
{
    /// <summary>Fields that may differ, each with its reason.</summary>
    private static readonly Dictionary<(Type, string), string> s_free = new()
    {
        [(typeof(Uart16550A), "_head")] = "where the receiver's ring begins: a restored one begins at 0",
        [(typeof(VirtioDevice), "_generation")] = "counts lives of queues, so that late answers are told from new ones: nothing outlives its machine",
        [(typeof(Virtqueue), "<Generation>k__BackingField")] = "as above",
        [(typeof(Uart16550A), "_fifo")] = "the ring itself: its contents in their order are in the record",
    };

    /// <summary>What belongs to the host, or is compared elsewhere.</summary>
    private static bool IsForeign(Type type) =>
        typeof(IX86Cpu).IsAssignableFrom(type) || type == typeof(X86Machine) || type == typeof(X86CpuThread) || type == typeof(GuestMemory)
            || type == typeof(VirtualClock)
        || type == typeof(TimerQueue) || type == typeof(CpuModel) || type == typeof(BoardRig) || typeof(MemberInfo).IsAssignableFrom(type)
            || type.Namespace is { } n && (n.StartsWith("System.Threading", StringComparison.Ordinal)
        || n.StartsWith("System.Reflection", StringComparison.Ordinal)) || type == typeof(object) || type.IsPointer;

    /// <summary>One line for each field that differs.</summary>
    public static IReadOnlyList<string> Compare(BoardRig a, BoardRig b)
    {
        var found = new List<string>();
        var seen = new HashSet<object>(ReferenceEqualityComparer.Instance);
        Walk(a.Board, b.Board, "board", found, seen);
        Walk(a.Machine.Ports, b.Machine.Ports, "ports", found, seen);
        Walk(a.Machine.Mmio, b.Machine.Mmio, "memory", found, seen);
        Walk(a.Machine.Msrs, b.Machine.Msrs, "MSRs", found, seen);
        Walk(a.Machine.Devices, b.Machine.Devices, "devices", found, seen);
        for (int n = 0; n < BoardRig.Cpus; n++)
        {
            Walk(a.Machine.Cpus[n].LocalMmio, b.Machine.Cpus[n].LocalMmio, $"local memory {n}", found, seen);
            Walk(a.Machine.Cpus[n].Interrupts, b.Machine.Cpus[n].Interrupts, $"interrupts {n}", found, seen);
        }
        return found;
    }

    /// <summary>Types of devices that answer on a bus of this machine, or have wires there, and are no part of its state.</summary>
    public static IReadOnlyList<string> Forgotten(BoardRig rig)
    {
        var devices = new HashSet<object>(rig.Machine.Devices, ReferenceEqualityComparer.Instance);
        var found = new SortedSet<string>(StringComparer.Ordinal);
        var seen = new HashSet<object>(ReferenceEqualityComparer.Instance);
        Visit(rig.Board);
        Visit(rig.Machine.Ports);
        Visit(rig.Machine.Mmio);
        Visit(rig.Machine.Msrs);
        return [.. found];

        void Visit(object? o)
        {
            if (o is null || o is string || o.GetType().IsPrimitive || o.GetType().IsEnum || IsForeign(o.GetType()) || !seen.Add(o)) return;
            if (o is IDevice && !devices.Contains(o)) found.Add(o.GetType().Name);
            if (o is IPortDevice or IMmioDevice or IMsrDevice && o is not IDevice && Changes(o.GetType())) found.Add(o.GetType().Name);
            if (o is Delegate d) Visit(d.Target);
            else if (o is IEnumerable e) foreach (object? item in e) Visit(item);
            foreach (FieldInfo field in Fields(o.GetType())) Visit(field.GetValue(o));
        }
    }

    /// <summary>The type has fields that are written after construction: a window on another object's registers has none.</summary>
    private static bool Changes(Type type) => Fields(type).Any(f => !f.IsInitOnly && !f.Name.StartsWith('<'));

    private static void Walk(object? a, object? b, string path, List<string> found, HashSet<object> seen)
    {
        if (a is null || b is null || a.GetType() != b.GetType())
        {
            if (a is not null || b is not null) found.Add($"{path}: {Show(a)} and {Show(b)}");
            return;
        }
        Type type = a.GetType();
        if (IsForeign(type)) return;
        if (a is IMachineTimer timer)
        {
            if (timer.Deadline != ((IMachineTimer)b).Deadline) found.Add($"{path}: armed for {Show(timer.Deadline)} and {Show(((IMachineTimer)b).Deadline)}");
            return;
        }
        if (type.IsPrimitive || type.IsEnum || a is string or decimal or Int128 or UInt128)
        {
            if (!a.Equals(b)) found.Add($"{path}: {Show(a)} and {Show(b)}");
            return;
        }
        if (!type.IsValueType && !seen.Add(a)) return;
        if (a is Delegate d)
        {
            Walk(d.Target, ((Delegate)b).Target, path + ".Target", found, seen);
            return;
        }
        if (a is Array one && type.GetElementType()!.IsPrimitive)
        {
            if (!StructuralComparisons.StructuralEqualityComparer.Equals(one, b)) found.Add($"{path}: the contents differ");
            return;
        }
        if (a is IEnumerable left)
        {
            // The order of elements is theirs; room behind the last one is nobody's.
            object?[] x = [.. left.Cast<object?>()], y = [.. ((IEnumerable)b).Cast<object?>()];
            if (x.Length != y.Length) found.Add($"{path}: {x.Length} and {y.Length} elements");
            else for (int n = 0; n < x.Length; n++) Walk(x[n], y[n], $"{path}[{n}]", found, seen);
            return;
        }
        foreach (FieldInfo field in Fields(type))
        {
            if (!s_free.ContainsKey((field.DeclaringType!, field.Name))) Walk(field.GetValue(a), field.GetValue(b), $"{path}.{field.Name}", found, seen);
        }
    }

    private static IEnumerable<FieldInfo> Fields(Type type)
    {
        for (Type? t = type; t is not null && t != typeof(object); t = t.BaseType)
        {
            foreach (FieldInfo field in t.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly))
            {
                if (!field.FieldType.IsPointer && !field.FieldType.IsByRef) yield return field;
            }
        }
    }

    private static string Show(object? value) => value is IFormattable f and not Enum ? f.ToString(value is byte or ushort or uint or ulong ? "X" : null, null)
        : value?.ToString() ?? "null";
}
