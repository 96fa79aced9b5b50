using System.Runtime.CompilerServices;

namespace Bunraku.Engines;

/// <summary>Checks of records on their way into a part: what indexes anything afterwards must not be taken on trust.</summary>
public static class StateCheck
{
    /// <summary>The array has as many elements as the part has room for.</summary>
    /// <exception cref="StateFormatException">It has not.</exception>
    public static T[] Length<T>(T[] array, int length, string id, [CallerArgumentExpression(nameof(array))] string? name = null) =>
        array.Length == length ? array : throw new StateFormatException($"{id}: {name} has {array.Length} elements, not {length}");

    /// <summary>The record is of the part's own type.</summary>
    /// <exception cref="StateFormatException">It is another one's.</exception>
    public static T Record<T>(object? state, string id) where T : class =>
        state as T ?? throw new StateFormatException($"{id}: its state is a {typeof(T).Name}, this is a {state?.GetType().Name ?? "null"}");

    /// <summary>The enumeration has a name for the value.</summary>
    /// <exception cref="StateFormatException">It has none.</exception>
    public static T Defined<T>(T value, string id, [CallerArgumentExpression(nameof(value))] string? name = null) where T : struct, Enum =>
        Enum.IsDefined(value) ? value : throw new StateFormatException($"{id}: {name} is {value}, which means nothing");

    /// <summary>The value lies in the range.</summary>
    /// <exception cref="StateFormatException">It does not.</exception>
    public static T Range<T>(T value, T least, T most, string id, [CallerArgumentExpression(nameof(value))] string? name = null) where T : IComparable<T> =>
        value.CompareTo(least) >= 0 && value.CompareTo(most) <= 0 ? value : throw new StateFormatException($"{id}: {name} is {value}, not {least} to {most}");
}
